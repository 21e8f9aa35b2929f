// Package docs follows the pages of docs/ as a reader does: it types the commands of a
// page, one block after the other, on a throwaway host, and compares what they print
// with what the page shows.
//
// In a page, what stands between ```sh and ``` is typed into one shell that lives as
// long as the page. A block ```text right behind it is what it prints, where "…" is
// anything within a line and a line "…" any lines. Words behind "sh" say more:
//
//	root, a, b …   who types it, where a page is about several
//	fails          the last command is to fail
//	background     the page goes on while it runs
//
// Blocks of other languages are not typed.
package docs
