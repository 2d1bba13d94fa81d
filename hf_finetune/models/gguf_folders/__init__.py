"""Folders whose weights are one GGUF file that `hf-finetune export` wrote, with configuration and tokenizer beside it.

families    the kinds of models that such files are written of, and llama.cpp's names for their weights
weights     weights in its order of rows
reading     the weights of a file put back into a model of transformers
"""
