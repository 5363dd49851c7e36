"""Generated code of the wire protocol; see `protos/`. Nothing here is edited by hand."""
