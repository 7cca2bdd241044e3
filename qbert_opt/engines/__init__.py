"""Engines that open and run a file format; one file each in `backends`. An engine must define `session.Engine`."""
