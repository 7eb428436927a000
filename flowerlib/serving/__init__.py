"""The HTTP service: `app` holds the API, `page` the web page; `hosts` and `connections` bound who may ask."""
