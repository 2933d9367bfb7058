"""The disk: everything that is written into, moved within or removed from a site's folders."""
