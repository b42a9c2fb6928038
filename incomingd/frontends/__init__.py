"""What browsers and other clients see: the upload resource, its status, the library."""
