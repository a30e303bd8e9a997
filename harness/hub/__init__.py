"""Runs and weights on the Hugging Face Hub: `harness push` and `harness pull`.

    client     what is asked of the package huggingface_hub, and its errors in plain words
    sharing    a run as a repository of the kind "dataset", weights as one of the kind "model"

Whatever is pulled is examined like any file from a stranger, and nothing in it is executed.
"""
