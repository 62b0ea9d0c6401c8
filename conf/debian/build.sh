#!/bin/sh
# Makes dist/supervisor-rolling_VERSION_all.deb: conf/debian/build.sh PYTHON [VERSION [DIST [BUILD]]]. It copies
# files and compiles nothing. PYTHON has crossplane, which Debian has not: it goes into supervisor_rolling/bundled/.
set -eu

python=$1
here=conf/debian
dist=${3:-dist}
root=${4:-build}/deb
package=supervisor-rolling
doc=$root/usr/share/doc/$package
site=$root/usr/lib/python3/dist-packages

main() {
    version=${2:-$(sed -n 's/^__version__ = "\(.*\)"/\1/p' supervisor_rolling/__init__.py)}
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
    export SOURCE_DATE_EPOCH
    umask 022
    rm -rf $root
    mkdir -p $root/DEBIAN $root/etc/supervisor $root/usr/bin $site $doc $root/usr/share/$package "$dist"
    modules
    programs
    settings
    documents
    find $root -name __pycache__ -prune -exec rm -rf {} +
    chmod -R u=rwX,go=rX $root
    control
    dpkg-deb --root-owner-group -Zxz --build $root "$dist/${package}_${version}_all.deb"
}

modules() {
    cp -R supervisor_rolling $site/
    crossplane=$($python -c 'import crossplane; print(crossplane.__path__[0])')
    mkdir $site/supervisor_rolling/bundled
    cp -R "$crossplane" $site/supervisor_rolling/bundled/
    info=$site/supervisor_rolling-$version.dist-info # for pip, so that it does not install the same again
    mkdir "$info"
    printf 'Metadata-Version: 2.1\nName: supervisor_rolling\nVersion: %s\n' "$version" >"$info/METADATA"
    echo debian >"$info/INSTALLER"
}

programs() {
    sed -n '/^\[project.scripts\]/,/^$/s/^\([a-z_]*\) = "\([a-z_.]*\):main"/\1 \2/p' pyproject.toml |
        while read -r name module; do
            printf '#!/usr/bin/python3\nimport sys\nfrom %s import main\nsys.exit(main())\n' "$module" \
                >$root/usr/bin/"$name"
            chmod 755 $root/usr/bin/"$name"
        done
}

# The drop-in is no file of /etc: there is a link to it, which a removal takes away and a reinstallation brings back.
settings() {
    $python -c 'from supervisor_rolling.skel import main; main(["sections"])' >$root/sections
    {
        echo '; Loads supervisor_rolling. To change it, replace the link in /etc/supervisor/conf.d by a copy.'
        sed -e "s,^command = [^ ]*,command = /usr/bin/supervisor_rolling_listener," \
            -e '/^; This section must be in the main file/,/^$/d' $root/sections
    } >$root/usr/share/$package/rolling.conf
    rm $root/sections
    cp $here/rolling.yaml $root/etc/supervisor/
}

documents() {
    for page in conf/man/*.[15]; do
        to=$root/usr/share/man/man${page##*.}
        mkdir -p "$to"
        gzip -9n <"$page" >"$to/${page##*/}.gz"
    done
    install -D -m 644 conf/completion/supervisor_rolling $root/usr/share/bash-completion/completions/supervisor_rolling
    install -D -m 644 conf/completion/_supervisor_rolling $root/usr/share/zsh/vendor-completions/_supervisor_rolling
    {
        cat LICENSE
        printf '\n\ncrossplane, in /usr/lib/python3/dist-packages/supervisor_rolling/bundled/crossplane:\n'
        cat "$crossplane"-*.dist-info/NOTICE
        printf '\nOn Debian systems the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0.\n'
    } >$doc/copyright
    printf '%s (%s) unstable; urgency=medium\n\n  * See CHANGES.rst.gz.\n\n -- %s  %s\n' $package "$version" \
        "$(sed -n 's/^Maintainer: //p' $here/control)" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" |
        gzip -9n >$doc/changelog.gz
    gzip -9n <CHANGES.rst >$doc/CHANGES.rst.gz
}

control() {
    size=$(du -ks $root | cut -f1)
    sed -e "s/@VERSION@/$version/" -e "/^Architecture/aInstalled-Size: $size" $here/control >$root/DEBIAN/control
    echo /etc/supervisor/rolling.yaml >$root/DEBIAN/conffiles
    for script in postinst prerm postrm; do
        install -m 755 $here/$script $root/DEBIAN/
    done
    (cd $root && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
}

main "$@"
