package proto_test

import (
	"regexp"
	"strings"
	"testing"
	"testing/quick"

	"github.com/banger-vm/banger/internal/guest/proto"
)

func TestNamesOfSessions(t *testing.T) {
	form := regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,47}\z`)
	check := func(name string) bool { return proto.IsSessionName(name) == form.MatchString(name) }
	for _, name := range []string{
		"", "a", "Z9", "0.-_", ".", "..", "-x", "_x", "a/b", "a\n", "a\x00", "é", "a b",
		strings.Repeat("x", 48), strings.Repeat("x", 49),
	} {
		if !check(name) {
			t.Errorf("%q is a name: %v", name, proto.IsSessionName(name))
		}
	}
	const likely = "aZ09._-/ \n\x80"
	ofThese := func(picks []byte) bool {
		var name strings.Builder
		for _, p := range picks {
			name.WriteByte(likely[int(p)%len(likely)])
		}
		return check(name.String())
	}
	if err := quick.Check(ofThese, nil); err != nil {
		t.Error(err)
	}
}
