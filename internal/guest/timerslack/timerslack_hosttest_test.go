//go:build hosttest

package timerslack

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// slackOfChild starts a program and gives its slack.
func slackOfChild(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("cat", "/proc/self/timerslack_ns").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// The test's own process is relaxed from here on: nothing in it minds.
func TestAProgramIsRelaxedAndWhatItStartsPunctuallyIsNot(t *testing.T) {
	if err := Relax(); err != nil {
		t.Fatal(err)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		is, err := os.ReadFile("/proc/" + thread.Name() + "/timerslack_ns")
		if err == nil && strings.TrimSpace(string(is)) != "4000000" {
			t.Errorf("thread %s has a slack of %s ns", thread.Name(), is)
		}
	}
	if got := slackOfChild(t); got != "4000000" {
		t.Errorf("what a relaxed program starts has a slack of %s ns: there is nothing to guard against", got)
	}
	err = Punctual(func() error {
		if got := slackOfChild(t); got != "50000" {
			t.Errorf("what is started punctually has a slack of %s ns", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := slackOfChild(t); got != "4000000" {
		t.Errorf("the thread came back with a slack of %s ns", got)
	}
}
