package fcqemu

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
)

func TestRelaySerialDropsWhatAFullPipeDoesNotTake(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all := strings.Repeat("0123456789", 100_000)
	relaySerial(w, strings.NewReader(all)) // returns although nobody reads
	w.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 || len(got) >= len(all) || !strings.HasPrefix(all, string(got)) {
		t.Errorf("%d of %d bytes came through, want a first part", len(got), len(all))
	}
}

func TestRelaySerialGoesOnWhenAReaderComesBack(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	relaySerial(w, bytes.NewReader(make([]byte, 1<<20)))
	if _, err := io.ReadFull(r, make([]byte, 16<<10)); err != nil {
		t.Fatal(err)
	}
	relaySerial(w, strings.NewReader("back"))
	w.Close()
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(rest), "back") {
		t.Error("what came after the pipe was emptied is not there")
	}
}
