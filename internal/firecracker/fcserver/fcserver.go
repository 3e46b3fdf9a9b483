// Package fcserver serves Firecracker's HTTP API, with Firecracker's own
// rules and error texts, over any [Machine]. A VMM of ours is
//
//	func main() { os.Exit(fcserver.Main("fcqemu", os.Args[1:], &machine{})) }
//
// and takes the flags of Firecracker, opens and binds what Firecracker opens
// and binds and when it does, and ends with Firecracker's exit codes.
//
// The rules were read in the source of the release that [Version] names and
// compared with its binary by the suite in package fctest, which runs against
// both.
package fcserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Version is the Firecracker release whose API is served: its paths, its
// fields and no others.
const Version = "1.12.1"

// Exit statuses of Firecracker.
const (
	// ExitOK follows a guest that reset its machine.
	ExitOK = 0
	// ExitGeneric follows any error that has no status of its own.
	ExitGeneric = 1
	// ExitAborted is how the abort of a panicking Firecracker looks to a
	// shell: an id, a file or a number that it cannot take.
	ExitAborted = 134
	// ExitBadConfiguration follows a log level that there is none of.
	ExitBadConfiguration = 152
	// ExitArguments follows a command line that makes no sense.
	ExitArguments = 153
)

// exitError is an error with the status to end with.
type exitError struct {
	status int
	error
}

// Main is a whole VMM: it takes Firecracker's arguments, serves the API over
// the machine, and returns the status to exit with once the machine has
// ended. name is what GET / gives as app_name.
//
// SIGTERM and SIGINT are left alone and end the process at once, as they do
// Firecracker: what the machine runs must not outlive it.
func Main(name string, args []string, m Machine) int {
	signal.Ignore(syscall.SIGPIPE)
	log := &logger{id: "anonymous-instance", out: rawFile(1), most: levelInfo}
	err := run(name, args, m, log)
	if err == nil {
		log.logf(levelInfo, "main", "Firecracker exiting successfully. exit_code=0")
		return ExitOK
	}
	status := ExitGeneric
	if exit, ok := errors.AsType[*exitError](err); ok {
		status = exit.status
	}
	log.logf(levelError, "main", "%v", err)
	fmt.Fprintf(os.Stderr, "Error: %v\n", err)
	log.logf(levelError, "main", "Firecracker exiting with error. exit_code=%d", status)
	return status
}

func run(name string, args []string, m Machine, log *logger) error {
	started := time.Now()
	given, err := parseArguments(args)
	if err != nil {
		return &exitError{ExitArguments, fmt.Errorf("Arguments parsing error: %w \n\nFor more information try --help.", err)} //nolint:staticcheck // upstream's text
	}
	if done, err := tellOnly(given); done {
		return err
	}
	if err := setUpLog(given, log); err != nil {
		return err
	}
	log.logf(levelInfo, "main", "Running Firecracker v%s", Version)
	p, err := newProcess(name, given, m, log)
	if err != nil {
		return err
	}
	p.api.metrics.startup = time.Since(started)
	return errors.Join(p.run(given), p.api.close())
}

// tellOnly answers the options that ask something.
func tellOnly(given arguments) (done bool, err error) {
	switch {
	case given.given("help"):
		fmt.Printf("Firecracker v%s\n\n%s", Version, usage())
	case given.given("version"):
		fmt.Printf("Firecracker v%s\n\n", Version)
	case given.given("snapshot-version"), given.given("describe-snapshot"):
		return true, errors.New("this VMM has no snapshots")
	default:
		return false, nil
	}
	return true, nil
}

func setUpLog(given arguments, log *logger) error {
	if err := checkID(given.value("id")); err != nil {
		return &exitError{ExitAborted, err}
	}
	log.id = given.value("id")
	most, known := parseLevel(given.value("level"))
	if !known {
		return &exitError{ExitBadConfiguration, fmt.Errorf("Invalid value for logger level: Failed to parse string to level filter: %s.Possible values: [Error, Warning, Info, Debug]", given.value("level"))} //nolint:staticcheck // upstream's text
	}
	settings := logSettings{path: given.value("log-path"), level: most, module: given.value("module")}
	if given.given("show-level") {
		settings.showLevel = new(true)
	}
	if given.given("show-log-origin") {
		settings.showOrigin = new(true)
	}
	return prefixed("Could not initialize logger", log.set(settings))
}

// process is the VMM while it runs.
type process struct {
	api     *api
	machine Machine
	log     *logger
	end     context.CancelFunc
	maxBody int
	// config and metadata are what --config-file and --metadata hold, nil
	// without them.
	config, metadata []byte
}

func newProcess(name string, given arguments, m Machine, log *logger) (*process, error) {
	maxBody, err := given.size("http-api-max-payload-size", 0)
	if err != nil {
		return nil, &exitError{ExitAborted, err}
	}
	mmdsLimit, err := given.size("mmds-size-limit", maxBody)
	if err != nil {
		return nil, &exitError{ExitAborted, err}
	}
	life, end := context.WithCancel(context.Background())
	p := &process{machine: m, log: log, end: end, maxBody: maxBody}
	p.api = newAPI(life, m, log, name, given.value("id"), mmdsLimit, given.given("boot-timer"))
	if path := given.value("metrics-path"); path != "" {
		if err := p.api.metrics.open(path); err != nil {
			return nil, prefixed("Could not initialize metrics", err)
		}
	}
	p.config, err = readNamed(given, "config-file", "Unable to open or read from the configuration file")
	if err != nil {
		return nil, err
	}
	p.metadata, err = readNamed(given, "metadata", "Unable to open or read from the mmds content file")
	return p, err
}

func readNamed(given arguments, flag, complaint string) ([]byte, error) {
	if !given.given(flag) {
		return nil, nil
	}
	text, err := os.ReadFile(given.value(flag))
	if err != nil {
		return nil, &exitError{ExitAborted, fmt.Errorf("%s: %w", complaint, err)}
	}
	return text, nil
}

// run serves until the machine has ended.
func (p *process) run(given arguments) error {
	defer p.end()
	if !given.given("no-api") {
		server, err := p.listen(given.value("api-sock"))
		if err != nil {
			return prefixed("RunWithApiError error", err)
		}
		defer shutDown(server)
	}
	go p.api.metrics.run(p.machine.Done())
	if p.config != nil {
		if err := p.api.loadConfig(p.config, p.metadata); err != nil {
			return prefixed("Failed to build MicroVM from Json", err)
		}
	} else if err := p.api.loadMetadata(p.metadata); err != nil {
		return err
	}
	<-p.machine.Done()
	if status := p.machine.Status(); status != ExitOK {
		return &exitError{status, errors.New("the machine ended with an error")}
	}
	return nil
}

// listen binds the API socket, whose file is never removed, and serves it.
func (p *process) listen(path string) (*http.Server, error) {
	listener, err := listenUnix(path)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("Failed to open the API socket at: %s. Check that it is not already used.", path) //nolint:staticcheck // upstream's text
	}
	if err != nil {
		return nil, fmt.Errorf("Failed to bind and run the HTTP server: IO error: %s", rustError(err)) //nolint:staticcheck // upstream's text
	}
	p.log.logf(levelInfo, "main", "Listening on API socket (%q).", path)
	server := &http.Server{Handler: &handler{api: p.api, maxBody: int64(p.maxBody)}}
	go func() { _ = server.Serve(newLimitedListener(listener)) }() // ends with the server's Close
	p.log.logf(levelInfo, "fc_api", "API server started.")
	return server, nil
}

// shutDownTimeout is for an answer that is on its way when the machine ends.
const shutDownTimeout = time.Second

func shutDown(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutDownTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		server.Close()
	}
}
