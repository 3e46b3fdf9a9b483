package client

import (
	"encoding/json"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// ReadyEnv names the environment variable with the number of the file
// descriptor on which a started daemon says how its start went: "ready\n", or
// an [api.Error] as one line of JSON.
const ReadyEnv = "BANGERD_READY_FD"

const readyWord = "ready\n"

// TellReady is the daemon's half of the start: with nil it says that the
// socket is listening, with an error that the daemon gives up. Once told, it
// does nothing more, and nothing where nobody asked.
func TellReady(failure error) {
	fd, err := strconv.Atoi(os.Getenv(ReadyEnv))
	os.Unsetenv(ReadyEnv)
	if err != nil || fd < 3 {
		return
	}
	unix.CloseOnExec(fd)
	pipe := os.NewFile(uintptr(fd), ReadyEnv)
	defer pipe.Close()
	if failure == nil {
		_, _ = pipe.WriteString(readyWord) // a starter that is gone needs no word
		return
	}
	told := &api.Error{Kind: api.KindInternal, Message: failure.Error()}
	errors.As(failure, &told)
	_ = json.NewEncoder(pipe).Encode(told)
}

// KeepReady keeps the children of a starting daemon from inheriting the
// descriptor: they would hold the starter's end open. A daemon calls it first
// of all.
func KeepReady() {
	if fd, err := strconv.Atoi(os.Getenv(ReadyEnv)); err == nil && fd >= 3 {
		unix.CloseOnExec(fd)
	}
}
