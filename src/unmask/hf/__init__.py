"""Models and texts from outside: packages, the Hugging Face hub, the libraries of its authors. The one door to them."""
