"""What the device could do at most, and how near a measurement comes (Williams, Waterman and Patterson, 2009)."""
