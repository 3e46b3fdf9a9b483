// Command deafagent stands in for the guest agent in tests: it never answers,
// as an agent in a wedged guest.
package main

import "os"

func main() {
	never, _, err := os.Pipe()
	if err != nil {
		os.Exit(1)
	}
	_, _ = never.Read(make([]byte, 1))
}
