// Package mixed holds the tests of clusters whose members are quorate beside etcd's own servers: mixed from the start, joined
// to each other, migrated from one to the other and back. The members are real processes (interop/cluster).
package mixed
