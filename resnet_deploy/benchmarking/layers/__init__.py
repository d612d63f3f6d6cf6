"""Where the time goes: profiles by layer, and trtexec's figures of the same plan."""
