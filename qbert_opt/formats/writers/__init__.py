"""File formats that can store our codes; one file each. A format must define `formats.format.Format`."""
