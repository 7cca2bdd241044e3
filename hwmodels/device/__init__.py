"""What a device is: its description, the file that it is read from, and the units of every figure."""
