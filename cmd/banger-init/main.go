// Command banger-init is the first process of every guest; see
// internal/guest/init.
package main

import guestinit "github.com/banger-vm/banger/internal/guest/init"

func main() { guestinit.Main() }
