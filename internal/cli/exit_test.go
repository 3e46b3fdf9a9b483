package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// A command can have several pairs of flags that can't go together.
func TestEveryPairIsRefused(t *testing.T) {
	for given, want := range map[string]string{
		"--a":             "",
		"--a --c":         "",
		"--a --b":         "--a and --b can't go together",
		"--c --d":         "--c and --d can't go together",
		"--a --b --c --d": "--a and --b can't go together",
	} {
		c := &cobra.Command{Use: "try", RunE: func(*cobra.Command, []string) error { return nil }, SilenceErrors: true, SilenceUsage: true}
		for _, name := range []string{"a", "b", "c", "d"} {
			c.Flags().Bool(name, false, "")
		}
		notBoth(c, "a", "b")
		notBoth(c, "c", "d")
		c.SetArgs(strings.Fields(given))
		got := ""
		if err := c.Execute(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, not %q", given, got, want)
		}
	}
}
