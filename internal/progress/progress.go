// Package progress is how long work tells of itself: the core reports typed
// events to a function, and text, JSON and silence are only different
// functions.
package progress

// Event is a moment of long work. Done and Total count bytes or things; a
// Total of 0 means that the end is not known. Warning marks a Detail that must
// reach the person even where progress is hidden.
type Event struct {
	Step    string
	Detail  string
	Done    int64
	Total   int64
	Warning bool
}

// Func receives events. It is called from one goroutine at a time and must not
// block for long.
type Func func(Event)

// Discard drops every event.
func Discard(Event) {}
