# Builds the server and puts it alone into an image without a shell, which runs as nobody in particular.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && mkdir -p /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/tracehouse /usr/local/bin/tracehouse
COPY --from=build --chown=nonroot:nonroot /data /data
VOLUME /data
EXPOSE 3200 4317 4318 9095 32010
ENV TRACEHOUSE_DATA=/data \
    TRACEHOUSE_SERVER_INSECURE=true \
    TRACEHOUSE_SERVER_OTLP_GRPC_LISTEN=0.0.0.0:4317 \
    TRACEHOUSE_SERVER_OTLP_HTTP_LISTEN=0.0.0.0:4318 \
    TRACEHOUSE_SERVER_TEMPO_LISTEN=0.0.0.0:3200 \
    TRACEHOUSE_SERVER_TEMPO_GRPC_LISTEN=0.0.0.0:9095 \
    TRACEHOUSE_SERVER_FLIGHT_LISTEN=0.0.0.0:32010
ENTRYPOINT ["/usr/local/bin/tracehouse"]
CMD ["serve"]
