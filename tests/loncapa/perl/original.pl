#!/usr/bin/perl
# Stands for the original lonc of LON-CAPA 2: perl original.pl DIRECTORY
#
# Goes into the background and writes lonc.pid. Makes a socket, and a child that serves it, for each DNS name that a
# client names at lonSockCreate or that has delayed transactions. A child has one connection to lond and carries one
# request after the other, the delayed ones every second. TERM ends it and its children.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX qw(WNOHANG setsid);
use Lonnet qw(read_conf ask running hostname log_permanently pause);
use Wire qw(shared_key encipher decipher);

my $conf = read_conf($ARGV[0]);
my ($sockets, $own) = @$conf{qw(lonSockDir lonHostID)};
my $pid_file = "$conf->{lonDaemons}/logs/lonc.pid";
my %address;  # DNS name -> address
my %first;    # DNS name -> its first id
open(my $table, '<', "$conf->{lonTabDir}/hosts.tab") or die "hosts.tab: $!\n";
while (<$table>) {
    my ($id, undef, undef, $dns, $address) = split(/[:\n]/);
    $address{$dns} = $address;
    $first{$dns} //= $id;
}
exit(0) if running();
exit(0) if fork;
setsid();
open(STDIN, '<', '/dev/null');
open(STDOUT, '>', '/dev/null');
open(STDERR, '>>', "$conf->{lonDaemons}/logs/lonc.log");
open(my $out, '>', $pid_file) or die "$pid_file: $!\n";
print $out "$$\n";
close($out);
$0 = 'lonc: parent';
mkdir("$sockets/delayed");

my ($ended, %child) = (0);  # %child: pid -> DNS name
$SIG{TERM} = sub { $ended = 1 };
$SIG{USR1} = $SIG{PIPE} = 'IGNORE';
my $create = listener($conf->{lonSockCreate});
until ($ended) {
    while ((my $pid = waitpid(-1, WNOHANG)) > 0) { delete($child{$pid}) }
    start($_) for map { hostname((/\.([\w-]+)$/)[0] // '') // () } glob("$sockets/delayed/*");
    next unless IO::Select->new($create)->can_read(0.2);
    my $client = $create->accept or next;
    my ($dns) = split(/:/, <$client> // '');
    start($dns) if defined($dns) and $address{$dns};
    print $client "done\n";
}
kill('TERM', keys(%child));
while (wait > 0) { }
unlink($pid_file, $conf->{lonSockCreate});

sub listener {
    my ($path) = @_;
    unlink($path);
    return IO::Socket::UNIX->new(Local => $path, Listen => 50, Type => SOCK_STREAM) || die "$path: $!\n";
}

sub start {
    my ($dns) = @_;
    return if grep { $_ eq $dns } values(%child);
    my $listener = listener("$sockets/$dns");
    my $pid = fork // return;
    return $child{$pid} = $dns if $pid;
    close($create);
    $0 = "lonc: $dns Connection count: 1";
    $SIG{TERM} = sub { unlink("$sockets/$dns"); POSIX::_exit(0) };
    serve($dns, $listener);
}

my ($lond, $key);

# lond's answer to one line, or undef. There is no connection then.
sub lond_answers {
    my ($dns, $line) = @_;
    if (!$lond) {
        $lond = IO::Socket::INET->new(PeerHost => $address{$dns}, PeerPort => $conf->{londPort}, Timeout => 2);
        my $challenge = $lond ? ask($lond, "init:$own:2.11") : undef;
        my $greeted = defined($challenge) && (ask($lond, $challenge) // '') eq 'ok';
        return undef($lond) unless $greeted and (ask($lond, "sethost:$first{$dns}") // '') eq 'ok';
        $key = shared_key($first{$dns}, $own, ask($lond, 'ekey') // '');
    }
    my $answer = ask($lond, $line);
    undef($lond) unless defined($answer);
    return $answer;
}

sub carry {
    my ($dns, $request) = @_;
    return 'ok' if $request eq 'reset_retries';
    my $id = $request =~ s/^sethost:([^:]+):// ? $1 : $first{$dns};
    lond_answers($dns, "sethost:$id") // return 'con_lost';
    $request = encipher($key, $request) if $request =~ s/^encrypt://;
    my $answer = lond_answers($dns, $request) // return 'con_lost';
    return $answer =~ /^enc:/ ? decipher($key, $answer) : $answer;
}

sub serve {
    my ($dns, $listener) = @_;
    my ($reading, $next, %arrived) = (IO::Select->new($listener), 0);
    while (1) {
        if (time >= $next) {
            $next = time + 1;
            for my $file (sort(glob("$sockets/delayed/*"))) {
                my ($id) = $file =~ /\.([\w-]+)$/ or next;
                next if (hostname($id) // '') ne $dns;
                open(my $in, '<', $file) or next;
                chomp(my $request = <$in> // next);
                last if carry($dns, "sethost:$id:$request") eq 'con_lost';
                unlink($file);
                log_permanently("S:$id:$request");
            }
        }
        for my $ready ($reading->can_read(0.2)) {
            if ($ready == $listener) {
                $reading->add($listener->accept // next);
                next;
            }
            if (!sysread($ready, $arrived{$ready}, 65536, length($arrived{$ready} // ''))) {
                delete($arrived{$ready});
                $reading->remove($ready);
                close($ready);
                next;
            }
            while ($arrived{$ready} =~ s/^(.*)\n//) { syswrite($ready, carry($dns, $1) . "\n") }
        }
    }
}
