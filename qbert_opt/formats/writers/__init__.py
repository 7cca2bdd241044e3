"""File formats that can hold our codes; one file each. A format must define `formats.format.Format`."""
