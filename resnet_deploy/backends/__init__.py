"""Runtimes behind one small interface. A backend says what really runs, never what was asked for."""
