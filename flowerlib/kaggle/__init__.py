"""The series on Kaggle: build kernels, push them, wait, download the outputs, submit. Imported by no notebook.

What lives here, in the order to read it:
    kernels: the notebooks as Kaggle kernels, and their metadata
    imports: the files of flowerlib that a notebook imports
    embedding: the cell that holds these files
    build: make a kernel of a notebook
    duration: how long a kernel takes
    check: lint kernels before they are pushed
    errors: the errors of Kaggle's API
    clock: the time, and waiting
    client: the login, and the timeout of requests
    remote: the newest version of a kernel on Kaggle
    service: requests to Kaggle
    outputs: the downloaded outputs and logs
    jobs: the state of one kernel
    steps: what moves all of them to their next state
    loop: quota, polling and the progress display
    finish: the submission and the recap
    run: the series from push to submission
    competition: the competition's data
    dataset: the pretrained weights as a dataset
    options, cli: the command line
"""
