"""What is in the image: packages, wheels, our own code, kernel and first program, as one reproducible archive each."""
