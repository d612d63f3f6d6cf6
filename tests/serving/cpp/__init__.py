"""The C++ library and programs: built, run, compared with Python."""
