package fcserver

import (
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// metrics writes lines of JSON to the metrics file, with upstream's names for
// what there is to tell here. Without a file nothing is written.
type metrics struct {
	mu     sync.Mutex
	file   rawFile
	opened bool

	startup            time.Duration
	requests, failures atomic.Uint64
}

// metricsInterval is how often a line is written unasked.
const metricsInterval = time.Minute

type metricsLine struct {
	UTCTimestampMS int64 `json:"utc_timestamp_ms"`
	APIServer      struct {
		ProcessStartupTimeUS int64 `json:"process_startup_time_us"`
	} `json:"api_server"`
	Requests struct {
		Count uint64 `json:"count"`
		Fails uint64 `json:"fails"`
	} `json:"api_requests"`
}

// open names the file, once.
func (m *metrics) open(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	file, err := openNonblocking(path)
	if err != nil {
		return errors.New("Cannot initialize the metrics system due to bad user input: " + rustError(err))
	}
	if m.opened {
		return errors.New("Cannot initialize the metrics system due to bad user input: Reinitialization of metrics not allowed.") //nolint:staticcheck // upstream's text
	}
	m.file, m.opened = file, true
	return nil
}

// flush writes a line.
func (m *metrics) flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.opened {
		return nil
	}
	var line metricsLine
	line.UTCTimestampMS = time.Now().UnixMilli()
	line.APIServer.ProcessStartupTimeUS = m.startup.Microseconds()
	line.Requests.Count, line.Requests.Fails = m.requests.Load(), m.failures.Load()
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_, err = m.file.Write(append(text, '\n'))
	return err
}

// count is one request served.
func (m *metrics) count(failed bool) {
	m.requests.Add(1)
	if failed {
		m.failures.Add(1)
	}
}

// run flushes until done is closed, and once more then.
func (m *metrics) run(done <-chan struct{}) {
	ticker := time.NewTicker(metricsInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = m.flush()
		case <-done:
			_ = m.flush()
			return
		}
	}
}
