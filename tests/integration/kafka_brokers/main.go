// A Kafka cluster of the tests' own: brokers that advertise other ports than those that they listen on, as real ones do
// with advertised.listeners. Arguments: LISTEN=ADVERTISED for each broker, ports of 127.0.0.1. Ends with its standard
// input.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
)

type advertised struct {
	net.Listener
	address net.Addr
}

func (listener advertised) Addr() net.Addr { return listener.address }

func main() {
	next := 0
	pairs := os.Args[1:]
	listen := func(network, _ string) (net.Listener, error) {
		own, shown, _ := strings.Cut(pairs[next], "=")
		next++
		address, err := net.ResolveTCPAddr(network, "127.0.0.1:"+shown)
		if err != nil {
			return nil, err
		}
		listener, err := net.Listen(network, "127.0.0.1:"+own)
		return advertised{listener, address}, err
	}
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(len(pairs)), kfake.ListenFn(listen), kfake.SeedTopics(int32(len(pairs)), "orders"),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for number := range pairs { // each leads one partition
		if err := cluster.MoveTopicPartition("orders", int32(number), int32(number)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	cluster.Close()
}
