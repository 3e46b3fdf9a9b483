package vm

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// appendRaw writes to a log what no add would.
func appendRaw(t *testing.T, log *journal, data string) {
	t.Helper()
	f, err := os.OpenFile(log.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// A line that is too long, or none, costs no other line.
func TestJournalSkipsWhatItCannotRead(t *testing.T) {
	long := `{"source":"console","text":"` + strings.Repeat("x", 100<<10) + "\"}\n"
	for name, odd := range map[string]string{
		"too long": long, "two that are too long": long + long, "no JSON": "x\n", "empty": "\n",
	} {
		_, _, log := startConsole(t)
		log.add("console", "before")
		appendRaw(t, log, odd)
		log.add("console", "after")
		if got := strings.Join(log.lastOfConsole(10), "|"); got != "before|after" {
			t.Errorf("beside a line that is %s: %q", name, got)
		}
	}
	_, _, log := startConsole(t)
	log.add("console", "before")
	appendRaw(t, log, strings.TrimSuffix(long, "\n"))
	if got := strings.Join(log.lastOfConsole(10), "|"); got != "before" {
		t.Errorf("before a line that is too long and has no end: %q", got)
	}
}

// Whatever a line holds, it can be read again, and so can what comes after it.
func TestJournalReadsWhatItWrote(t *testing.T) {
	for _, char := range []string{"x", "\x01", "<", "\xff", "ä", "\n"} {
		_, _, log := startConsole(t)
		log.add("console", strings.Repeat(char, 64<<10/len(char)))
		log.add("console", "reboot: Power down")
		lines := log.lastOfConsole(10)
		if len(lines) != 2 || len(lines[0]) < lineLimit/2 {
			t.Errorf("of a line of %q, it reads %d lines", char, len(lines))
		}
		if word, _ := log.lastWord(); word != wordPowerOff {
			t.Errorf("after a line of %q, the last word is %q", char, word)
		}
	}
}

// What cannot be read at all is told of where the lines would be.
func TestJournalThatCannotBeRead(t *testing.T) {
	_, _, log := startConsole(t)
	if err := os.Mkdir(log.path+".1", 0o700); err != nil {
		t.Fatal(err)
	}
	log.add("console", "hello")
	past, _, stop := log.read()
	stop()
	if len(past) != 2 || past[0].Source != "daemon" || !strings.Contains(past[0].Text, "log.ndjson.1") || past[1].Text != "hello" {
		t.Errorf("it reads %v", past)
	}
}

// logSize is how much the log has on disk.
func logSize(log *journal) (size int64) {
	for _, path := range []string{log.path, log.path + ".1"} {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
	}
	return size
}

// withoutFiles does something while this process can open no file.
func withoutFiles(t *testing.T, do func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	set := func(cur uint64) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: cur, Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
	}
	set(3)
	defer set(limit.Cur)
	do()
}

// flood writes several times as much as the log may hold.
func flood(log *journal) {
	line := strings.Repeat("y", 1000)
	for range 4 * journalLimit / 1000 {
		log.add("console", line)
	}
}

// Where no new file can be made the old one does not grow instead, and what is
// said when there can is kept again.
func TestJournalStaysWithinItsLimitWithoutFiles(t *testing.T) {
	_, _, log := startConsole(t)
	log.add("console", "first")
	withoutFiles(t, func() { flood(log) })
	if size := logSize(log); size > journalLimit {
		t.Errorf("the log takes %d bytes, of %d in one file", size, journalLimit)
	}
	log.add("console", "last")
	lines := log.lastOfConsole(1 << 20)
	if lines[0] != "first" || lines[len(lines)-1] != "last" {
		t.Errorf("of the first and the last line there are %.9q and %.9q", lines[0], lines[len(lines)-1])
	}
}

func TestJournalStaysWithinItsLimitWhereItCannotRename(t *testing.T) {
	_, _, log := startConsole(t)
	if err := os.Mkdir(log.path+".1", 0o700); err != nil {
		t.Fatal(err)
	}
	flood(log)
	if size := logSize(log); size > journalLimit {
		t.Errorf("the log takes %d bytes, of %d in one file", size, journalLimit)
	}
}

// Who takes the log away does not make it grow unseen.
func TestJournalWhoseFileIsGone(t *testing.T) {
	_, _, log := startConsole(t)
	if err := os.Remove(log.path); err != nil {
		t.Fatal(err)
	}
	flood(log)
	log.add("console", "last")
	if got := log.lastOfConsole(1); len(got) != 1 || got[0] != "last" {
		t.Errorf("after it was full, the newest line is %.9q", got)
	}
}

// A guest has no say in how long a record is.
func TestAReasonQuotesLittle(t *testing.T) {
	_, _, log := startConsole(t)
	for range 5 {
		log.add("console", strings.Repeat("\x01", lineLimit))
	}
	quoted := log.quoted(5)
	if lines := strings.Split(quoted, "\n"); len(lines) != 6 || len(quoted) > 5*(quoteLimit+3) {
		t.Errorf("%d lines are quoted, in %d bytes", len(lines)-1, len(quoted))
	}
	r := Record{State: api.StateStarting}
	if err := transition(&r, api.StateFailed, "it said: "+strings.Repeat("ä", 1<<20)); err != nil {
		t.Fatal(err)
	}
	if len(r.Reason) > reasonLimit || !strings.HasPrefix(r.Reason, "it said: ää") || !strings.HasSuffix(r.Reason, "ä…") {
		t.Errorf("the reason has %d bytes: %.20s", len(r.Reason), r.Reason)
	}
}
