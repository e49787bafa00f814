"""What every command needs: errors for people, whole-file writes, provenance, the page shell, command-line plumbing.

Import from the modules; none of them imports torch before it is asked to.
"""
