"""File formats that hold our codes; one file each. What a format must define is `formats.format.Format`."""
