"""A model as one GGUF file, as llama.cpp and what is built on it read it.

families       the kinds of models, and llama.cpp's names for their weights
settings       a configuration in its words
split_rules    how a tokenizer splits text, by its names
vocabulary     a tokenizer as a file holds it
weights        weights in its order of rows
quantization   how they are stored
writing        the file
"""
