"""Folders whose weights are an ONNX graph: opened in onnxruntime, and called as models of transformers are.

session         a graph opened, after a look at where its weights are
graph_models    a language model with its key-value cache, a classifier with its decision
"""
