"""Commands about a model that is there, on its way to others.

export.py   a model for another runtime
merge.py    one model of an adapter and its base
serve.py    a model behind HTTP
push.py     push a folder to the Hub
"""
