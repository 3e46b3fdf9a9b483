// Package arch holds the architecture's rules as tests: who may import whom,
// that every package says what it is, and what no package is called.
package arch
