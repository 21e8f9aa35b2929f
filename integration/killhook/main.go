//go:build integration || vm

package main

func main() {}
