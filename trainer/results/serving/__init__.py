"""What serves a run's model elsewhere: GGUF files, Ollama's Modelfile, vLLM's command.

The command line and the page call it; it starts processes for what needs the training stack, and never imports it.
"""
