package cli_test

import (
	"bufio"
	"os"
	"strings"
	"testing"
)

// The log is followed over the end of the daemon that writes it.
func TestTheDaemonsLogIsFollowed(t *testing.T) {
	h := newHome(t)
	h.run("vm", "list")
	c := h.command("daemon", "logs", "-f")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	awaitListening(t, lines)
	h.run("daemon", "restart")
	h.run("vm", "list")
	awaitListening(t, lines)
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); c.ProcessState.ExitCode() != 130 {
		t.Errorf("interrupted, it ended with %v", err)
	}
}

func awaitListening(t *testing.T, lines *bufio.Scanner) {
	t.Helper()
	for lines.Scan() {
		if strings.Contains(lines.Text(), "msg=listening") {
			return
		}
	}
	t.Fatalf("the log has no more: %v", lines.Err())
}
