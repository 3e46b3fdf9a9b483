package cli_test

import (
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/cli"
)

var update = flag.Bool("update", false, "write docs/reference anew")

func TestReference(t *testing.T) {
	for path, write := range map[string]func(io.Writer) error{
		"../../docs/reference/cli.md":    cli.WriteReference,
		"../../docs/reference/config.md": cli.WriteConfigReference,
	} {
		var want strings.Builder
		if err := write(&want); err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(path, []byte(want.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want.String() {
			t.Errorf("%s is not what the program says of itself: run `make docs`", path)
		}
	}
}
