"""Measurements that need a machine of their own; no part of the installed packages."""
