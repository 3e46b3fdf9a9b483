package debian

import _ "embed"

// archiveKeys are the keys that sign bookworm and trixie; keys/README.md says
// which and where they come from.
//
//go:embed keys/debian-archive.asc
var archiveKeys []byte
