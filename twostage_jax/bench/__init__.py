"""Speed and parity, side by side with PyTorch; PyTorch comes with the extra `bench`."""
