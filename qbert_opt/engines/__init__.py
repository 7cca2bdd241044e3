"""Engines that open and run a file format; one file each in `backends`. What one must define is `session.Engine`."""
