"""The cloud side: doors, broker and one slice for each capability."""
