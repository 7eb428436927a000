"""The web service: a JSON API and a static page that uses it.

`app` assembles it, `routes` has the API's endpoints and `schemas` their answers, `uploads` finds the images in a
request, `batching` runs the network on those of all requests together. `limits`, `hosts` and `connections` bound what
it accepts, from whom and for how long; `proxies` is for those in front of it.
"""
