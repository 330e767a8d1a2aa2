"""The process: leader election, start and stop in order, the recorder of events, plug-ins."""
