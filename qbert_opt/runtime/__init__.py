"""What long work stands on: files, resumable work, processes, memory, plug-ins."""
