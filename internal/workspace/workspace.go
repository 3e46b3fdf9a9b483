// Package workspace brings a directory of the host into a guest, and the work
// that was done there back. It runs as the user, in the program that the user
// started, and knows of a VM only the connection to its agent: what it says
// there is package wire, and the guest's half is internal/guest/workspace.
//
// Repositories are read by the user's own git, the only program that knows each
// form a repository may have; it runs no hook and takes no lock. In the guest
// they become one self-contained .git, made here, since the guest may have no
// git. What comes back is a stranger's: names, sizes and numbers are bounded,
// files go into a scratch tree that has no links, and git's own checks look at
// every object before the host's repository gets any.
//
// What went in is remembered in a [Store], with a repository of banger's own
// over the objects of the user's: there is the base that the guest's work is
// compared with. The user's repository is written by a pull alone.
package workspace
