package vm

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestWordOf(t *testing.T) {
	tests := map[string]lastWord{
		"[   12.345678] reboot: Power down\r": wordPowerOff,
		"reboot: Power down":                  wordPowerOff,
		"[  182.060892] reboot: Power off not available: System halted instead": wordPowerOff,
		"[ 3.2] reboot: System halted":                                          wordHalt,
		"[12345.000001] reboot: Restarting system":                              wordReboot,
		"[    1.1] Kernel panic - not syncing: no init!":                        wordPanic,
		"echo reboot: Power down":                                               wordNone,
		"box login: [    2.345678] reboot: Power down":                          wordPowerOff,
		"\x1b[0m 12 %\r 13 %\r[    1.1] Kernel panic - not syncing: no init!":   wordPanic,
		"[    1.0] a: [    2.0][    T1] reboot: Restarting system":              wordReboot,
		"[    1.0] echo reboot: Power down":                                     wordNone,
		"":                                                                      wordNone,
	}
	for line, want := range tests {
		if got, _ := wordOf(line); got != want {
			t.Errorf("wordOf(%q) = %q, want %q", line, got, want)
		}
	}
}

// startConsole gives a console and the VMM's end of it.
func startConsole(t *testing.T) (*console, *os.File, *journal) {
	t.Helper()
	dir := t.TempDir()
	vmm, err := makeConsole(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vmm.Close() })
	log, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.close)
	c, err := listen(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	return c, vmm, log
}

func TestConsoleHearsTheLastWordAndKeepsTheLines(t *testing.T) {
	c, vmm, log := startConsole(t)
	fmt.Fprint(vmm, "hello\r\n[    1.0] Kernel panic - not syncing: boo\r\n[    2.0] reboot: Restarting system\r\n")
	<-c.heard
	c.finish()
	if word, about := c.last(); word != wordPanic || about != "Kernel panic - not syncing: boo" {
		t.Errorf("last word = %q (%q), want the panic before the reboot that it caused", word, about)
	}
	lines := log.lastOfConsole(10)
	want := []string{"hello", "[    1.0] Kernel panic - not syncing: boo", "[    2.0] reboot: Restarting system"}
	if strings.Join(lines, "|") != strings.Join(want, "|") {
		t.Errorf("the journal has %q, want %q", lines, want)
	}
}

// What a guest says while no daemon listens is in the pipe for the next one.
func TestConsoleOutlivesItsReader(t *testing.T) {
	c, vmm, log := startConsole(t)
	c.letGo()
	fmt.Fprint(vmm, "reboot: Power down\n")
	again, err := listen(strings.TrimSuffix(c.path, "/console"), log)
	if err != nil {
		t.Fatal(err)
	}
	<-again.heard
	again.finish()
	if word, _ := again.last(); word != wordPowerOff {
		t.Errorf("last word = %q, want %q", word, wordPowerOff)
	}
}

func TestConsoleOfAGuestThatNeverEndsItsLine(t *testing.T) {
	c, vmm, log := startConsole(t)
	for range 64 {
		// The pipe is smaller than all of it: each write waits for the reader.
		if _, err := vmm.WriteString(strings.Repeat("x", 16<<10)); err != nil {
			t.Fatal(err)
		}
	}
	c.finish()
	for _, line := range log.lastOfConsole(10) {
		if len(line) > lineLimit {
			t.Fatalf("a line of %d bytes, the limit is %d", len(line), lineLimit)
		}
	}
}

// A word that the kernel says in the middle of a line is heard wherever the line
// has to be cut.
func TestConsoleHearsTheLastWordInALineOfAnyLength(t *testing.T) {
	const word = "[   12.345678][    T1] reboot: Power down"
	for before := lineLimit - len(word) - 1; before <= lineLimit+1; before++ {
		c, vmm, log := startConsole(t)
		fmt.Fprint(vmm, strings.Repeat("x", before)+word+"\r\n")
		c.finish()
		if got, about := c.last(); got != wordPowerOff || about != "reboot: Power down" {
			t.Errorf("behind %d bytes: last word = %q (%q)", before, got, about)
		}
		if got := strings.Join(log.lastOfConsole(10), ""); got != strings.Repeat("x", before)+word {
			t.Errorf("behind %d bytes, the journal has lost some: %d", before, len(got))
		}
	}
}

// What a guest said in an earlier life is not what it said last.
func TestConsoleOfTheLastLife(t *testing.T) {
	_, _, log := startConsole(t)
	log.add("daemon", startsAgain)
	log.add("console", "reboot: Power down")
	log.add("daemon", startsAgain)
	if lines := log.lastOfConsole(5); len(lines) != 0 {
		t.Errorf("before its first word the guest said %q", lines)
	}
	log.add("console", "hello")
	if lines := log.lastOfConsole(5); len(lines) != 1 || lines[0] != "hello" {
		t.Errorf("the guest said %q", lines)
	}
	if word, _ := log.lastWord(); word != wordNone {
		t.Errorf("last word = %q, of an earlier life", word)
	}
}

func TestJournalStaysWithinItsLimit(t *testing.T) {
	_, _, log := startConsole(t)
	line := strings.Repeat("y", 1000)
	for range 4 * journalLimit / 1000 {
		log.add("console", line)
	}
	var total int64
	for _, path := range []string{log.path, log.path + ".1"} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 2*journalLimit {
		t.Errorf("the log takes %d bytes, the limit is %d", total, 2*journalLimit)
	}
	if got := log.lastOfConsole(1); len(got) != 1 || got[0] != line {
		t.Error("the newest line is lost")
	}
}

func TestJournalFollowerGetsEveryLineOnce(t *testing.T) {
	_, _, log := startConsole(t)
	log.add("daemon", "before")
	past, more, stop := log.read()
	defer stop()
	log.add("daemon", "after")
	if len(past) != 1 || past[0].Text != "before" {
		t.Errorf("past = %v", past)
	}
	if got := <-more; got.Text != "after" {
		t.Errorf("more = %v", got)
	}
}
