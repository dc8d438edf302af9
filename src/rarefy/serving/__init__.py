"""A model behind HTTP, in the wire format that clients of OpenAI's interface speak."""
