"""A model behind HTTP: OpenAI's API, /generate, /classify, a page; many answers at once, adapters switched per request.

options     what a server is asked to be, and whether it can: before a model is loaded
loading     folders and Hub ids -> models and adapters by name
engine/     many answers at once
labelling   a classifier for many requests
filters     what a prompt and an answer have to pass
meter       counts for Prometheus
faults      what is logged of a fault
votes       which of two models answers better
page        the page, of templates/
api/        HTTP
server      from an address to its end
start       all of these, in the order in which a server starts
vllm        the command by which other servers serve a folder
"""
