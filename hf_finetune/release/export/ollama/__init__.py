"""A GGUF file and its Modelfile, whose template in Go is proved to give the prompts of the run.

shapes         what a chat template does, found by rendering, and a template in Go that does the same
rendering      templates in Go rendered: by Go itself, or by our own reader of the part of it that is written here
render.go      the program for that, which gives a template what Ollama gives it
modelfile      the Modelfile
"""
